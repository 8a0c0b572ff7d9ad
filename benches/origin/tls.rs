//! One certificate for all servers, and OpenSSL settings that leave the clients one cipher.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;

/// The only cipher suite that is offered and accepted.
pub(crate) const CIPHER: &str = "TLS_AES_128_GCM_SHA256";

/// Files of the encrypted measurements.
pub(crate) struct Tls {
    /// Self-signed, ECDSA P-256, for 127.0.0.1; PEM.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// For `OPENSSL_CONF` of wrk and h2load: TLS 1.3 with `CIPHER` and nothing else. The server's choice
    /// among what a client offers differs, so the client offers one.
    pub(crate) client_settings: PathBuf,
}

impl Tls {
    /// Makes the files below `dir`.
    pub(crate) fn make(dir: &Path) -> Outcome<Tls> {
        let tls = Tls {
            certificate: dir.join("certificate.pem"),
            key: dir.join("key.pem"),
            client_settings: dir.join("openssl.cnf"),
        };
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(&tls.key)
            .arg("-out")
            .arg(&tls.certificate)
            .output()
            .map_err(|e| format!("cannot start openssl: {e}"))?;
        if !output.status.success() {
            return Err(format!("openssl makes no certificate: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        let settings = format!(
            "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = defaults\n\
             [defaults]\nMinProtocol = TLSv1.3\nCiphersuites = {CIPHER}\n"
        );
        fs::write(&tls.client_settings, settings).map_err(|e| format!("cannot write OpenSSL's settings: {e}"))?;
        Ok(tls)
    }
}
