//! Classes of predictions as contexts.

/// Classes of predictions: near zero by the ratio to the step, then the others by the step's share of
/// what the prediction's exponent stands for.
pub const CLASSES: usize = 64;

/// Contexts of classes, in place.
#[inline(never)]
pub fn contexts(map: &[u8; CLASSES], ctx: &mut [u8]) {
    for c in ctx {
        *c = map[usize::from(*c) & (CLASSES - 1)];
    }
}
