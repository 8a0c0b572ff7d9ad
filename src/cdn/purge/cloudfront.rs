//! CloudFront's API: `CreateInvalidation`, in XML, signed by AWS Signature Version 4.
//!
//! It is asked for paths. Of a tag, which is a track's id, these are all directories that the track's media lie in.
//! <https://docs.aws.amazon.com/cloudfront/latest/APIReference/API_CreateInvalidation.html>

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use hyper::{Method, Request, header};

use super::{What, path_of};
use crate::base::secret::Secret;
use crate::base::{Error, Result};

/// CloudFront is one for the world, and signed as if it were there.
const REGION: &str = "us-east-1";

pub(super) fn request(
    (base, distribution): (&str, &str),
    (access_key, secret_key): (&str, &Secret),
    id: &str,
    what: &What,
    now: SystemTime,
) -> Result<Request<Bytes>> {
    let paths = match what {
        What::Tag(tag) => paths(tag),
        What::Url(url) => vec![path_of(url)?],
    };
    let items: String = paths.iter().map(|path| format!("<Path>{}</Path>", escape(path))).collect();
    // The id is the reference: asked twice for the same, CloudFront answers what it answered before.
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<InvalidationBatch xmlns=\"http://cloudfront.amazonaws.com/doc/2020-05-31/\">\
         <CallerReference>{}</CallerReference><Paths><Items>{items}</Items><Quantity>{}</Quantity></Paths></InvalidationBatch>",
        escape(id),
        paths.len()
    );
    let url = format!("{base}/2020-05-31/distribution/{distribution}/invalidation");
    let unusable = |cause: String| Error::invalid(format!("no request can be made for {distribution}: {cause}"));
    let request = Request::builder().method(Method::POST).uri(&url).header(header::CONTENT_TYPE, "application/xml");
    let mut request = request.body(Bytes::from(body)).map_err(|cause| unusable(cause.to_string()))?;
    let secret = String::from_utf8_lossy(secret_key.expose()).into_owned();
    let identity = Credentials::new(access_key, secret, None, None, "settings").into();
    let settings = SigningSettings::default();
    let how = v4::SigningParams::builder().identity(&identity).region(REGION).name("cloudfront").time(now);
    let how = how.settings(settings).build().map_err(|cause| unusable(cause.to_string()))?.into();
    let headers = [("content-type", "application/xml")].into_iter();
    let signable = SignableRequest::new("POST", &url, headers, SignableBody::Bytes(request.body()));
    let signable = signable.map_err(|cause| unusable(cause.to_string()))?;
    let (instructions, _) = sign(signable, &how).map_err(|cause| unusable(cause.to_string()))?.into_parts();
    instructions.apply_to_request_http1x(&mut request);
    Ok(request)
}

/// Everything that a track's media are asked by.
fn paths(track: &str) -> Vec<String> {
    let below = ["a", "p", "w", "d", "tracks"].iter().map(|directory| format!("/{directory}/{track}/*"));
    below.chain([format!("/watch/{track}*"), format!("/embed/track/{track}*")]).collect()
}

/// Whether a 400 says that there are too many at once.
pub(super) fn is_busy(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    matches!(element(&text, "Code"), Some("TooManyInvalidationsInProgress" | "Throttling" | "ThrottlingException"))
}

/// The text of the first element of that name. Enough for an error, which has no attributes.
pub(super) fn element<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(inner, _)| inner)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
