//! Says which instruction sets this compiler can be asked for. Std only, like the crate.

use std::env;
use std::process::Command;

/// The compiler's `(major, minor)` version, or `None` where it cannot be read.
fn rustc_version() -> Option<(u32, u32)> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    // "rustc 1.89.0 (29483883e 2025-08-04)" or "rustc 1.91.0-nightly (...)"
    let mut parts = text.split_whitespace().nth(1)?.split(['.', '-']);
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    Some((major, minor))
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let version = rustc_version().unwrap_or((0, 0));
    // Older compilers do not know the flag; newer ones warn about names that were not announced.
    if version >= (1, 80) {
        println!("cargo:rustc-check-cfg=cfg(p2u_avx512)");
    }
    // The AVX-512 intrinsics are stable from 1.89 on. Older compilers do without that twin.
    let x86_64 = env::var("CARGO_CFG_TARGET_ARCH").map_or(false, |arch| arch == "x86_64");
    if x86_64 && version >= (1, 89) {
        println!("cargo:rustc-cfg=p2u_avx512");
    }
}
