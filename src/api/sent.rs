//! JSON that was sent: of the right type, short enough, and with the fields that are known here and no others.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::objects::Objects;
use super::problem::Problem;
use crate::server::handover::TooSlow;

/// The largest body, in bytes: forms of people have some hundreds.
const BYTES_MAX: usize = 64 << 10;

/// A JSON body. Types say `deny_unknown_fields`: nobody sets what nobody reads (ASVS 15.3.3).
#[derive(Debug)]
pub(super) struct Sent<T>(pub(super) T);

/// The same, or nothing at all.
#[derive(Debug)]
pub(super) struct SentOrNot<T>(pub(super) Option<T>);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Sent<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, _: &S) -> Result<Sent<T>, Problem> {
        let (head, bytes) = read(request).await?;
        decode(&head, &bytes).map(Sent)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for SentOrNot<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, _: &S) -> Result<SentOrNot<T>, Problem> {
        let (head, bytes) = read(request).await?;
        Ok(SentOrNot(if bytes.is_empty() { None } else { Some(decode(&head, &bytes)?) }))
    }
}

async fn read(request: Request) -> Result<(HeaderMap, Bytes), Problem> {
    let (head, body) = request.into_parts();
    let read = Limited::new(body, BYTES_MAX).collect().await.map_err(|cause| match cause.is::<LengthLimitError>() {
        true => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "The body is too large",
            format!("send at most {BYTES_MAX} bytes"),
        ),
        false if TooSlow::is_why(&*cause) => too_slow(),
        false => Problem::unreadable(StatusCode::BAD_REQUEST, "it broke off"),
    })?;
    Ok((head.headers, read.to_bytes()))
}

/// Only what a page cannot send to another site without being asked: not a form (ASVS 3.5.2).
fn decode<T: DeserializeOwned>(head: &HeaderMap, bytes: &[u8]) -> Result<T, Problem> {
    let said = head.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = said.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content-type",
            "The body is of a type that is not read here",
            "send Content-Type: application/json",
        ));
    }
    json(bytes)
}

/// A request's body, or why there is none: for routes that look at its bytes too, or whose clients name no type.
pub(super) type Raw = Result<Bytes, BytesRejection>;

/// The bytes of a body.
pub(super) fn bytes(body: Raw) -> Result<Bytes, Problem> {
    body.map_err(|cause| match TooSlow::is_why(&cause) {
        true => too_slow(),
        false => Problem::unreadable(cause.status(), cause.body_text()),
    })
}

/// RFC 9110 §15.5.9: the same request may be made again, on another connection.
fn too_slow() -> Problem {
    let detail = "it came too slowly and was given up; send it again";
    Problem::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", "The body did not come in time", detail)
}

/// What JSON says, of the type that is wanted.
pub(super) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let read = T::deserialize(Objects(&mut from)).and_then(|read| from.end().map(|()| read));
    read.map_err(|cause| Problem::unreadable(StatusCode::BAD_REQUEST, plain(&cause.to_string())))
}

/// What serde says, in words of JSON: what our types are called tells nobody what to send.
fn plain(said: &str) -> String {
    let Some((found, expected)) = said.split_once(", expected ") else { return said.to_owned() };
    let found = found.replace("type: sequence", "type: array").replace("type: map", "type: object");
    let named = ["struct ", "enum ", "tuple struct ", "unit struct "];
    let rest_of = |text: &'_ str| text.find(" at line ").map_or(String::new(), |at| text[at..].to_owned());
    let is = |names: &[&str]| names.iter().any(|name| expected.split(' ').next() == Some(name));
    let expected = if named.iter().any(|kind| expected.starts_with(kind)) {
        let what = if expected.starts_with("enum ") { "one of its words" } else { "an object" };
        format!("{what}{}", rest_of(expected))
    } else if is(&["i8", "i16", "i32", "i64", "isize", "u8", "u16", "u32", "u64", "usize"]) {
        format!("a whole number that fits{}", rest_of(expected))
    } else if is(&["f32", "f64"]) {
        format!("a number{}", rest_of(expected))
    } else if expected.starts_with("a sequence") {
        format!("an array{}", rest_of(expected))
    } else {
        expected.to_owned()
    };
    format!("{found}, expected {expected}")
}

/// A type of body: what the description calls it, and whether bytes can be taken as one. `fuzz/` compares the two.
pub type BodyType = (&'static str, fn(&[u8]) -> bool);

pub(super) const fn body<T: DeserializeOwned>(name: &'static str) -> BodyType {
    (name, |bytes| json::<T>(bytes).is_ok())
}

/// The JSON of a body.
pub(super) fn json_of<T: DeserializeOwned>(body: Raw) -> Result<T, Problem> {
    json(&bytes(body)?)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        name: String,
        inner: Option<Inner>,
        #[serde(default)]
        many: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        count: u8,
    }

    #[test]
    fn objects_are_objects_at_every_depth() {
        let read = |text: &str| json::<Outer>(text.as_bytes());
        let good = read(r#"{"name":"a","inner":{"count":1},"many":[{"count":2}]}"#).unwrap();
        assert_eq!((good.name.as_str(), good.inner.unwrap().count, good.many[0].count), ("a", 1, 2));
        assert!(read(r#"{"name":"a","inner":null}"#).unwrap().inner.is_none());
        for (wrong, words) in [
            (r#"["a",{"count":1},[]]"#, "invalid type: array, expected an object at line 1"),
            (r#"{"name":"a","inner":[1]}"#, "invalid type: array, expected an object at line 1"),
            (r#"{"name":"a","many":[[1]]}"#, "invalid type: array, expected an object at line 1"),
            (r#"{"name":"a","many":{}}"#, "invalid type: object, expected an array at line 1"),
            (r#"{"name":"a","inner":{"count":-1}}"#, "expected a whole number that fits at line 1"),
            (r#"{"name":1}"#, "invalid type: integer `1`, expected a string at line 1"),
            (r#"{"name":"a","other":1}"#, "unknown field `other`, expected one of `name`, `inner`, `many`"),
            (r#"{"name":"a"} x"#, "trailing characters"),
            (r#"{"name":"a","name":"b"}"#, "duplicate field"),
            ("7", "expected an object"),
            ("", "EOF"),
        ] {
            let said = format!("{:?}", read(wrong).unwrap_err());
            assert!(said.contains(words) && !said.contains("struct "), "{wrong}: {said}");
        }
    }
}
