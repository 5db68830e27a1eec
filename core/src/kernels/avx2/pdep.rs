//! Processors on which `pdep` and `pext` are microcode.

use core::arch::x86_64::__cpuid;
use std::sync::atomic::{AtomicU8, Ordering};

/// First family of AMD that has circuits for them: Zen 3.
const ZEN_3: u32 = 0x19;

/// Whether they take a few cycles, and not some per bit as in AMD's families before Zen 3 and in
/// Hygon's.
pub fn is_fast() -> bool {
    static FOUND: AtomicU8 = AtomicU8::new(0);
    match FOUND.load(Ordering::Relaxed) {
        0 => {
            let fast = look();
            FOUND.store(1 + u8::from(fast), Ordering::Relaxed);
            fast
        }
        found => found == 2,
    }
}

fn look() -> bool {
    // SAFETY: every x86-64 processor has the instruction.
    #[allow(unused_unsafe)]
    let (vendor, version) = unsafe { (__cpuid(0), __cpuid(1)) };
    let mut name = [0; 12];
    for (part, word) in name
        .chunks_exact_mut(4)
        .zip([vendor.ebx, vendor.edx, vendor.ecx])
    {
        part.copy_from_slice(&word.to_le_bytes());
    }
    fast(&name, version.eax)
}

/// By the vendor's name and the first word of its version.
fn fast(vendor: &[u8; 12], version: u32) -> bool {
    let base = version >> 8 & 15;
    let family = base + if base == 15 { version >> 20 & 255 } else { 0 };
    match vendor {
        b"AuthenticAMD" => family >= ZEN_3,
        b"HygonGenuine" => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::fast;

    #[test]
    fn microcoded_processors_are_known() {
        // Excavator, Zen 2, Zen 3, Zen 5; Hygon Dhyana; Haswell, Sapphire Rapids.
        assert!(!fast(b"AuthenticAMD", 0x0066_0f01));
        assert!(!fast(b"AuthenticAMD", 0x0087_0f10));
        assert!(fast(b"AuthenticAMD", 0x00a2_0f10));
        assert!(fast(b"AuthenticAMD", 0x00b4_0f40));
        assert!(!fast(b"HygonGenuine", 0x0090_0f02));
        assert!(fast(b"GenuineIntel", 0x0003_06c3));
        assert!(fast(b"GenuineIntel", 0x0008_06f8));
    }
}
