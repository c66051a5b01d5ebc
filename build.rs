//! Stamps the version that `lvsd --version` prints.

fn main() {
    let described = std::process::Command::new("git")
        .args(["describe", "--always", "--dirty", "--tags"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok());
    let revision = described.as_deref().map_or("unknown", str::trim);
    println!("cargo:rustc-env=LVSD_REVISION={revision}");
    println!("cargo:rerun-if-changed=build.rs");
    // Written by every commit and checkout, while HEAD often only names the branch.
    println!("cargo:rerun-if-changed=.git/logs/HEAD");
}
