//! From what is known when the program runs to types: instruction sets and formats of floats.

/// An expression with `$i` as the type of the instruction set that was asked for.
macro_rules! with_isa {
    ($wish:expr, $i:ident => $body:expr) => {
        match $crate::simd::resolve($wish)? {
            #[cfg(target_arch = "x86_64")]
            $crate::simd::AVX2 => {
                type $i = $crate::simd::avx2::Avx2;
                $body
            }
            #[cfg(p2u_avx512)]
            $crate::simd::AVX512 => {
                type $i = $crate::simd::avx512::Avx512;
                $body
            }
            _ => {
                type $i = $crate::simd::Scalar;
                $body
            }
        }
    };
}

/// A result with `$f` as the format of a float dtype; other dtypes are an error.
macro_rules! with_float {
    ($dtype:expr, $f:ident => $body:expr) => {
        match $dtype {
            $crate::chunk::Dtype::F32 => {
                type $f = $crate::float::F32;
                $body
            }
            $crate::chunk::Dtype::F16 => {
                type $f = $crate::float::F16;
                $body
            }
            $crate::chunk::Dtype::BF16 => {
                type $f = $crate::float::BF16;
                $body
            }
            $crate::chunk::Dtype::Opaque => Err($crate::Error::Argument),
        }
    };
}

pub(crate) use {with_float, with_isa};
