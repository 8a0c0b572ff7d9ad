//! Whether a request may have what it asks for. In: the target, its token, who asks and when. Out: yes,
//! or why not. Signature and time only: no I/O, nothing to look up.

use std::net::{IpAddr, SocketAddr};

use hyper::Request;
use hyper::header::HeaderName;

use super::target::Target;
use crate::cdn::bunny::{Keys, Presented, Refused};

/// Checks the token of a request for something that takes one.
pub(super) fn authorize(
    keys: &Keys,
    target: &Target<'_>,
    query: Option<&str>,
    peer: IpAddr,
    now_s: u64,
) -> Result<(), Refused> {
    let presented = match (target.token, query) {
        (Some(component), _) => Presented::Path(component),
        (None, Some(query)) => Presented::Query(query),
        (None, None) => return Err(Refused::Missing),
    };
    keys.verify(presented, target.path, peer, now_s)
}

/// Who asks: the connection's peer, or whom a trusted proxy says it asks for.
pub(super) fn client<B>(request: &Request<B>, peer: SocketAddr, trust_proxy: bool) -> IpAddr {
    const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
    if !trust_proxy {
        return peer.ip();
    }
    let said = request.headers().get(X_REAL_IP).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    said.unwrap_or(peer.ip())
}
