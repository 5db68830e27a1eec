//! From what is known when the program runs to types: instruction sets and formats of floats.

/// An expression with `$i` as the type of the instruction set that was asked for.
macro_rules! with_isa {
    ($wish:expr, $i:ident => $body:expr) => {
        match $crate::kernels::resolve($wish)? {
            #[cfg(target_arch = "x86_64")]
            $crate::kernels::AVX2 => {
                type $i = $crate::kernels::avx2::Avx2;
                $body
            }
            #[cfg(p2u_avx512)]
            $crate::kernels::AVX512 => {
                type $i = $crate::kernels::avx512::Avx512;
                $body
            }
            _ => {
                type $i = $crate::kernels::Scalar;
                $body
            }
        }
    };
}

/// A result with `$f` as the format of a float dtype; other dtypes are an error.
macro_rules! with_float {
    ($dtype:expr, $f:ident => $body:expr) => {
        match $dtype {
            $crate::decode::Dtype::F32 => {
                type $f = $crate::format::float::F32;
                $body
            }
            $crate::decode::Dtype::F16 => {
                type $f = $crate::format::float::F16;
                $body
            }
            $crate::decode::Dtype::BF16 => {
                type $f = $crate::format::float::BF16;
                $body
            }
            $crate::decode::Dtype::Opaque => Err($crate::Error::Argument),
        }
    };
}

pub(crate) use {with_float, with_isa};
