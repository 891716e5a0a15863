//! A certificate authority of the test's own, and a server certificate for loopback, by openssl.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

const CA_CONFIG: &str = "[req]\ndistinguished_name = name\nx509_extensions = ca\nprompt = no\n[name]\nCN = Tidemark test CA\n[ca]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, cRLSign\nsubjectKeyIdentifier = hash\n";
const SERVER_CONFIG: &str = "[req]\ndistinguished_name = name\nprompt = no\n[name]\nCN = localhost\n[server]\nbasicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\nextendedKeyUsage = serverAuth\nsubjectAltName = IP:127.0.0.1, DNS:localhost\n";

/// Writes `ca.pem`, `server.pem` and `server.key` into `dir`.
pub(crate) fn make(dir: &Path) -> Result<()> {
    std::fs::write(dir.join("ca.cnf"), CA_CONFIG)?;
    std::fs::write(dir.join("server.cnf"), SERVER_CONFIG)?;
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    openssl(
        dir,
        &["req", "-x509", "-config", "ca.cnf", "-days", "3650"],
        &key,
        &["-keyout", "ca.key", "-out", "ca.pem"],
    )?;
    openssl(
        dir,
        &["req", "-config", "server.cnf"],
        &key,
        &["-keyout", "server.key", "-out", "server.csr"],
    )?;
    openssl(
        dir,
        &[
            "x509",
            "-req",
            "-in",
            "server.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
        ],
        &[],
        &[
            "-CAcreateserial",
            "-days",
            "825",
            "-extfile",
            "server.cnf",
            "-extensions",
            "server",
            "-out",
            "server.pem",
        ],
    )
}

fn openssl(dir: &Path, first: &[&str], second: &[&str], third: &[&str]) -> Result<()> {
    let output = Command::new("openssl")
        .current_dir(dir)
        .args(first)
        .args(second)
        .args(third)
        .output()
        .context("openssl is needed: run tests/install-servers")?;
    ensure!(
        output.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
