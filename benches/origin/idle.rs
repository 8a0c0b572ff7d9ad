//! What a listener between two segments costs: resident bytes per idle keep-alive connection.

use std::time::Duration;

use crate::Outcome;
use crate::http;
use crate::process::Process;

/// Resident memory around opening the connections.
#[derive(Clone, Copy)]
pub(crate) struct Idle {
    /// Before, after a first request on a connection that was closed again.
    pub(crate) before_bytes: u64,
    /// With every connection open and at rest.
    pub(crate) after_bytes: u64,
    /// How many were open.
    pub(crate) connections: u64,
}

impl Idle {
    /// Growth per connection. nginx allocates its connection table at the start, so this leaves out a
    /// part of what its connections cost: the comparison errs in its favour.
    pub(crate) fn per_connection(&self) -> f64 {
        self.after_bytes.saturating_sub(self.before_bytes) as f64 / self.connections as f64
    }
}

/// Opens `connections` to a server, has each answer one request, and leaves them open for a moment.
pub(crate) fn measure(process: &Process, port: u16, path: &str, connections: u64) -> Outcome<Idle> {
    let request = http::request(port, path, &[]);
    drop(http::get(port, path, &[])?);
    std::thread::sleep(Duration::from_millis(300));
    let before_bytes = process.resident_bytes()?;

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
    std::thread::sleep(Duration::from_secs(1));
    let after_bytes = process.resident_bytes()?;
    // The oldest must still be alive, or we counted fewer than we say.
    if let Some(first) = open.first_mut() {
        http::exchange(first, &request).map_err(|e| format!("the oldest of {connections} idle connections: {e}"))?;
    }
    Ok(Idle { before_bytes, after_bytes, connections })
}
