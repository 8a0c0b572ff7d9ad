//! What variables say, put into the tree of a file.

/// The standard variables of OpenTelemetry that have a key here; the exporter reads the others itself
/// (`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`, `OTEL_RESOURCE_ATTRIBUTES`).
pub(super) fn overlay_otel(tree: &mut toml::Table, variables: &[(String, String)]) {
    let get = |name: &str| variables.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, v)| v);
    let mut set = |path: &str, value: &str| overlay_text(tree, path, value);
    if get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return;
    }
    // OTLP exporter specification, "Endpoint URLs for OTLP/HTTP": a signal's own URL is used as it is.
    if let Some(url) = get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
        set("TELEMETRY__OTLP_TRACES_ENDPOINT", url);
    } else if let Some(url) = get("OTEL_EXPORTER_OTLP_ENDPOINT") {
        set("TELEMETRY__OTLP_TRACES_ENDPOINT", &format!("{}/v1/traces", url.trim_end_matches('/')));
    }
    if let Some(name) = get("OTEL_SERVICE_NAME") {
        set("TELEMETRY__SERVICE_NAME", name);
    }
}

/// The standard variables of AWS, for what the file does not say.
pub(super) fn overlay_aws(tree: &mut toml::Table, variables: &[(String, String)]) {
    const KNOWN: [(&str, &str); 13] = [
        ("AWS_ACCESS_KEY_ID", "access_key"),
        ("AWS_SECRET_ACCESS_KEY", "secret_key"),
        ("AWS_SESSION_TOKEN", "session_token"),
        ("AWS_REGION", "region"),
        ("AWS_DEFAULT_REGION", "region"),
        ("AWS_ENDPOINT_URL_S3", "endpoint"),
        ("AWS_ENDPOINT_URL", "endpoint"),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials_file"),
        ("AWS_PROFILE", "credentials_profile"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "role_url"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "role_token"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "role_token_file"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "metadata_url"),
    ];
    for (name, key) in KNOWN {
        let value = variables.iter().find(|(known, value)| known == name && !value.is_empty());
        let is_set = tree.get("store").and_then(|store| store.get("s3")).is_some_and(|s3| s3.get(key).is_some());
        if let Some((_, value)) = value
            && !is_set
        {
            overlay_text(tree, &format!("STORE__S3__{key}"), value);
        }
    }
    // ECS says a path; the host is always the same (Amazon ECS developer guide, "Task IAM role").
    let relative =
        variables.iter().find(|(known, value)| known == "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" && !value.is_empty());
    let is_set = tree.get("store").and_then(|store| store.get("s3")).is_some_and(|s3| s3.get("role_url").is_some());
    if let (Some((_, path)), false) = (relative, is_set) {
        overlay_text(tree, "STORE__S3__ROLE_URL", &format!("http://169.254.170.2{path}"));
    }
}

/// Sets `SECTION__KEY` in the tree. The value is read as TOML when it is TOML, else as a string.
pub(super) fn overlay(tree: &mut toml::Table, path: &str, value: &str) {
    let value = format!("v = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    overlay_value(tree, path, value);
}

pub(super) fn overlay_text(tree: &mut toml::Table, path: &str, value: &str) {
    overlay_value(tree, path, toml::Value::String(value.to_owned()));
}

pub(super) fn overlay_value(tree: &mut toml::Table, path: &str, value: toml::Value) {
    let lower = path.to_ascii_lowercase();
    let mut parts: Vec<_> = lower.split("__").collect();
    let last = parts.pop().expect("split gives at least one part");
    let mut table = tree;
    for part in parts {
        let next = table.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if !next.is_table() {
            *next = toml::Value::Table(toml::Table::new());
        }
        table = next.as_table_mut().expect("made a table above");
    }
    table.insert(last.to_owned(), value);
}
