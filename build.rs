//! Says to the linker what makes the program start sooner and stay smaller.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        // A tenth of the size of the usual list of relocations, all of which is read at every start. glibc knows it from
        // 2.36 on, which Debian 12 has; a linker that does not know it says so and goes on.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
