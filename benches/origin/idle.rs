//! What a listener between two segments costs: resident bytes per idle keep-alive connection.

use std::time::Duration;

use crate::Outcome;
use crate::http;
use crate::process::Process;

/// Resident bytes of a server that has answered once and holds no connection.
pub(crate) fn at_rest(process: &Process, port: u16, path: &str) -> Outcome<u64> {
    drop(http::get(port, path, &[])?);
    std::thread::sleep(Duration::from_millis(300));
    process.resident_bytes()
}

/// Opens `connections`, has each answer one request, and gives the resident bytes after all have been at
/// rest for the time of `rest`: servers may give memory back a while after the last byte.
pub(crate) fn with(process: &Process, port: u16, path: &str, connections: u64, rest: Duration) -> Outcome<u64> {
    let request = http::request(port, path, &[]);
    let mut open = Vec::with_capacity(connections as usize);
    for number in 0..connections {
        let at = |e| format!("connection {number} of {connections}: {e}");
        let mut stream = http::connect(port).map_err(at)?;
        let answer = http::exchange(&mut stream, &request).map_err(at)?;
        if answer.status != 200 {
            return Err(at(format!("status {}", answer.status)));
        }
        open.push(stream);
    }
    std::thread::sleep(rest);
    let bytes = process.resident_bytes()?;
    // Every one must still be alive, or we counted fewer than we say.
    for (number, stream) in open.iter_mut().enumerate() {
        http::exchange(stream, &request).map_err(|e| format!("idle connection {number} of {connections}: {e}"))?;
    }
    Ok(bytes)
}
