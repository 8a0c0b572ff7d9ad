//! One answer by curl, for what our own client does not speak: TLS and HTTP/2.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::Outcome;
use crate::http::Answer;
use crate::rows::Protocol;
use crate::tls::CIPHER;

/// GETs `url` over exactly `protocol`. The certificate is not checked: it is our own.
pub(crate) fn get(scratch: &Path, protocol: Protocol, url: &str, headers: &[(String, String)]) -> Outcome<Answer> {
    let (head, body) = (scratch.join("curl.head"), scratch.join("curl.body"));
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--insecure",
        "--max-time",
        "10",
        "--write-out",
        "%{http_code} %{http_version}",
    ]);
    curl.arg(match protocol {
        Protocol::Http1 | Protocol::Tls => "--http1.1",
        Protocol::H2c => "--http2-prior-knowledge",
        Protocol::H2Tls => "--http2",
    });
    if protocol.is_encrypted() {
        curl.args(["--tlsv1.3", "--tls13-ciphers", CIPHER]);
    }
    for (name, value) in headers {
        curl.arg("--header").arg(format!("{name}: {value}"));
    }
    curl.arg("--dump-header").arg(&head).arg("--output").arg(&body).arg(url);
    let output = curl.output().map_err(|e| format!("cannot start curl: {e}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let (status, version) = said.split_once(' ').ok_or_else(|| format!("curl said {said:?}"))?;
    let wanted = if protocol.is_h2() { "2" } else { "1.1" };
    if version != wanted {
        return Err(format!("HTTP/{version} instead of HTTP/{wanted}"));
    }
    let head = fs::read(&head).map_err(|e| format!("no head from curl: {e}"))?;
    // An empty body leaves no file.
    let body = fs::read(&body).unwrap_or_default();
    let headers = String::from_utf8_lossy(&head)
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    Ok(Answer { status: status.parse().map_err(|_| format!("curl said {said:?}"))?, headers, head, body })
}
