//! What the control plane is told in JSON: webhooks of providers, and the bodies of its own API.

use aws_lc_rs::{digest, hmac};
use segue::api;
use segue::base::hex;
use segue::base::secret::Secret;
use segue::providers::{hyperswitch, stripe};
use serde_json::Value;

use super::NOW_S;

/// What the corpus of webhooks was signed with.
const PROVIDER_KEY: &str = "whsec_of-the-corpus";

/// A signature field in a line, and a body: a second reading of both schemes says who is believed, and of what is believed only
/// ids are read, as they stand there.
pub fn webhooks(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let (field, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let field = std::str::from_utf8(field).ok();
    let (key, other) = (Secret::new(PROVIDER_KEY.as_bytes()), Secret::new(*b"another secret"));
    let tag = |algorithm, body: &[&[u8]]| {
        let key = hmac::Key::new(algorithm, PROVIDER_KEY.as_bytes());
        hex::encode(hmac::sign(&key, &body.concat()).as_ref())
    };

    // Hyperswitch: HMAC-SHA512 of the body. What it says is as long as it says, and signs nothing else.
    let whole = tag(hmac::HMAC_SHA512, &[body]);
    assert_eq!(hyperswitch::is_signed(body, field, &key), field == Some(whole.as_str()), "{field:?}");
    assert!(hyperswitch::is_signed(body, Some(&whole), &key));
    let longer = [body, b" "].concat();
    assert!(
        !hyperswitch::is_signed(&longer, Some(&whole), &key) && !hyperswitch::is_signed(body, Some(&whole), &other)
    );

    // Stripe: fields in any order, the first time counts, any of the signatures may be right.
    let now_s = NOW_S as i64;
    let believed = field.is_some_and(|field| {
        let named = |name: &'static str| {
            let fields = field.split(',').filter_map(|one| one.trim().split_once('='));
            fields.filter(move |(key, _)| *key == name).map(|(_, value)| value)
        };
        let Some(time) = named("t").next() else { return false };
        let Ok(at_s) = time.parse::<i64>() else { return false };
        let right = tag(hmac::HMAC_SHA256, &[time.as_bytes(), b".", body]);
        (i128::from(at_s) - i128::from(now_s)).abs() <= 300 && named("v1").any(|given| given == right)
    });
    let secrets = [other, key];
    assert_eq!(stripe::is_signed(body, field, &secrets, now_s), believed, "{field:?}");
    let right = tag(hmac::HMAC_SHA256, &[NOW_S.to_string().as_bytes(), b".", body]);
    let right = format!("t={NOW_S},v1={right}");
    assert!(stripe::is_signed(body, Some(&right), &secrets, now_s));
    for (body, secrets, at_s) in
        [(&*longer, &secrets[..], now_s), (body, &secrets[..1], now_s), (body, &secrets[..], now_s + 301)]
    {
        assert!(!stripe::is_signed(body, Some(&right), secrets, at_s), "{body:?} at {at_s}");
    }

    events(body);
}

/// Events: what is read stands there, is short, and is all that another delivery would need.
fn events(body: &[u8]) {
    let value: Option<Value> = serde_json::from_slice(body).ok().filter(Value::is_object);
    let at = |path: &str| {
        let text = value.as_ref()?.pointer(path)?.as_str()?;
        (!text.is_empty() && text.len() <= 128 && !text.chars().any(char::is_control)).then(|| text.to_owned())
    };
    let event = hyperswitch::Event::read(body);
    assert_eq!(event.is_some(), value.is_some());
    if let Some(event) = event {
        let object = |name: &str| at(&format!("/content/object/{name}"));
        assert_eq!((event.id.clone(), event.kind.clone()), (at("/event_id"), at("/event_type")));
        assert_eq!(
            (event.payment.clone(), event.refund.clone(), event.dispute.clone()),
            (object("payment_id"), object("refund_id"), object("dispute_id"))
        );
        let kind = event.kind.as_deref().unwrap_or_default();
        let named = [("payment_", &event.payment), ("refund_", &event.refund), ("dispute_", &event.dispute)];
        let lacks = named.iter().any(|(begins, id)| kind.starts_with(begins) && id.is_none());
        assert_eq!(event.is_whole(), !lacks, "{event:?}");
    }
    let event = stripe::read_event(body);
    assert_eq!(event.is_some(), value.is_some());
    if let Some((id, kind, transfer)) = event {
        assert_eq!((id, kind), (at("/id"), at("/type")));
        let expected = match at("/data/object/object").as_deref() {
            Some("transfer") => at("/data/object/id"),
            Some("transfer_reversal") => at("/data/object/transfer"),
            _ => None,
        };
        assert_eq!(transfer, expected);
    }
}

/// The name of a schema in a line, and a body: what a route reads is what the description says that it reads, and nobody
/// sets a field that is not described.
pub fn bodies(data: &[u8]) {
    thread_local! {
        static DESCRIBED: Value = {
            let text = api::openapi::text(&api::openapi::document());
            serde_json::from_str(&text).expect("the description is JSON")
        };
    }
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let (name, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Some((name, reads)) = api::bodies().find(|(known, _)| known.as_bytes() == name) else { return };
    if !reads(body) {
        return;
    }
    let value: Value = serde_json::from_slice(body).expect("what is read is JSON");
    DESCRIBED.with(|document| {
        let schema = &document["components"]["schemas"][name];
        assert!(schema.is_object(), "{name} is not described");
        assert!(value.is_null() || fits(document, schema, &value), "{name} is not described like that: {value}");
    });
    if let Value::Object(mut fields) = value {
        let digest = digest::digest(&digest::SHA256, body);
        fields.insert(hex::encode(&digest.as_ref()[..4]), Value::Bool(true));
        let more = Value::Object(fields).to_string();
        assert!(!reads(more.as_bytes()), "{name} takes fields that nobody knows: {more}");
    }
}

/// Whether a value has the shape that a schema of JSON Schema 2020-12 wants: types, fields and alternatives. Bounds and lists
/// of words are looked at behind the reading, and answered in words.
fn fits(document: &Value, schema: &Value, value: &Value) -> bool {
    if let Some(path) = schema["$ref"].as_str() {
        let schema = document.pointer(path.trim_start_matches('#')).expect("what is referred to is there");
        return fits(document, schema, value);
    }
    let any = ["oneOf", "anyOf"].iter().filter_map(|key| schema[*key].as_array());
    if !any.clone().all(|schemas| schemas.iter().any(|schema| fits(document, schema, value))) {
        return false;
    }
    let is = |kind: &str| match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the description has a type {other}"),
    };
    let of_type = match &schema["type"] {
        Value::String(kind) => is(kind),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).any(is),
        _ => true,
    };
    let within = match value {
        Value::Array(items) => schema.get("items").is_none_or(|of| items.iter().all(|item| fits(document, of, item))),
        Value::Object(fields) => {
            let known = schema["properties"].as_object();
            let required = schema["required"].as_array();
            let there = |name: &Value| name.as_str().is_some_and(|name| fields.contains_key(name));
            required.is_none_or(|names| names.iter().all(there))
                && known.is_none_or(|known| {
                    fields.iter().all(|(name, value)| known.get(name).is_some_and(|of| fits(document, of, value)))
                })
        }
        _ => true,
    };
    of_type && within
}
