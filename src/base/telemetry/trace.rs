//! Spans, and their way to a collector (OTLP over HTTP), with W3C trace context.
//!
//! Misses, fills, jobs and control requests always have a span. A hit has one only when its caller says
//! that the trace is sampled, or by a configured ratio: a span costs more than the hit. A collector that
//! is slow or gone costs spans, never requests: they wait in a bounded queue that drops what is too many.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::{HeaderMap, StatusCode};
use tracing::Span;
use tracing::field::Empty;
use tracing_subscriber::{Layer, Registry};

use super::access;
use super::rate::PerSecond;
use crate::base::Result;

/// Where spans go, and which hits have one.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The collector's URL for traces, `http://host:4318/v1/traces`. Default: none, no spans leave.
    pub endpoint: Option<String>,
    /// `service.name` of the spans.
    pub service: String,
    /// One hit in so many has a span. 0: none.
    pub hits_one_in: u32,
    /// Hits a second at most that have a span because their caller samples them: anyone may say so.
    pub sampled_hits_per_s_max: u32,
}

/// `OFF`, or how many hits a second may be sampled by their callers.
static SAMPLED_PER_S_MAX: AtomicU32 = AtomicU32::new(OFF);
static HITS_ONE_IN: AtomicU32 = AtomicU32::new(0);
const OFF: u32 = u32::MAX;

/// Whether a request that may be a hit has a span. One load when there is no collector.
pub fn wants(traceparent: Option<&HeaderValue>) -> bool {
    static SAMPLED: PerSecond = PerSecond::new();
    match SAMPLED_PER_S_MAX.load(Ordering::Relaxed) {
        OFF => false,
        max => traceparent.is_some_and(is_sampled) && SAMPLED.take(max) || is_our_turn(),
    }
}

/// Whether hits have spans although nobody asks for them.
pub fn samples_hits() -> bool {
    HITS_ONE_IN.load(Ordering::Relaxed) > 0 && SAMPLED_PER_S_MAX.load(Ordering::Relaxed) != OFF
}

/// The sampled flag of a `traceparent` (W3C Trace Context §3.2.2.5): the last bit of the fourth field.
fn is_sampled(traceparent: &HeaderValue) -> bool {
    let flags = traceparent.as_bytes().get(53..55).and_then(|flags| std::str::from_utf8(flags).ok());
    flags.and_then(|flags| u8::from_str_radix(flags, 16).ok()).is_some_and(|flags| flags & 1 == 1)
}

/// The span of a request, continuing the caller's trace. For what is rare: misses, sampled hits, control requests.
#[cold]
pub fn request(method: &str, route: &str, path: &str, id: Option<&str>, headers: &HeaderMap) -> Span {
    let span = tracing::info_span!(
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        url.path = &*access::path(path),
        url.scheme = "http",
        request_id = id,
        cache = Empty,
    );
    continue_from(&span, headers);
    span
}

/// Completes the span of a request with the status of its answer.
pub fn end_request(span: &Span, status: StatusCode) {
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR"); // 4xx is the caller's error, not the server's (semconv)
    }
}

fn is_our_turn() -> bool {
    thread_local! {
        static COUNTED: Cell<u32> = const { Cell::new(0) };
    }
    let one_in = HITS_ONE_IN.load(Ordering::Relaxed);
    one_in > 0 && COUNTED.with(|counted| counted.replace((counted.get() + 1) % one_in) == 0)
}

#[cfg(feature = "otel")]
pub(super) use export::Exporter;
#[cfg(feature = "otel")]
pub use export::continue_from;

/// The layer that collects spans, when there is a collector to send them to.
#[cfg(feature = "otel")]
pub(super) fn layer(options: &Options) -> Result<Option<(Spans, Exporter)>> {
    let Some(endpoint) = &options.endpoint else { return Ok(None) };
    let layer = export::layer(endpoint, &options.service)?;
    HITS_ONE_IN.store(options.hits_one_in, Ordering::Relaxed);
    SAMPLED_PER_S_MAX.store(options.sampled_hits_per_s_max.min(OFF - 1), Ordering::Relaxed);
    Ok(Some(layer))
}

type Spans = Box<dyn Layer<Registry> + Send + Sync>;

/// The way to the collector.
#[cfg(feature = "otel")]
mod export {
    use std::pin::Pin;

    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full, Limited};
    use hyper::header::{HOST, HeaderName};
    use hyper::{Request, Response, Uri};
    use hyper_util::rt::TokioIo;
    use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_http::{HttpClient, HttpError};
    use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tokio::net::TcpStream;
    use tokio::runtime::{Handle, Runtime};
    use tokio::time::timeout;
    use tracing::Level;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;
    use tracing_subscriber::filter::filter_fn;

    use super::*;
    use crate::base::Error;
    use crate::base::error::Context as _;
    use crate::base::telemetry::TRACE_FAILED;

    /// One attempt to send one batch; a collector that takes longer is not there.
    const SEND_MAX: Duration = Duration::from_secs(5);
    /// A collector says "ok", or what it did not like, in less.
    const ANSWER_BYTES_MAX: usize = 64 << 10;

    /// Sends what the layer collects, from threads of its own.
    #[derive(Debug)]
    pub(in crate::base::telemetry) struct Exporter {
        provider: SdkTracerProvider,
        runtime: Runtime,
    }

    impl Exporter {
        /// Sends what is waiting, or gives it up after `at_most`.
        pub(in crate::base::telemetry) fn flush(self, at_most: Duration) {
            let _ = self.provider.shutdown_with_timeout(at_most); // a collector that is down is not fatal
            self.runtime.shutdown_background();
        }
    }

    pub(super) fn layer(endpoint: &str, service: &str) -> Result<(Spans, Exporter)> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("otlp")
            .enable_all()
            .build()
            .context(|| "cannot start the trace exporter")?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .with_timeout(SEND_MAX)
            .with_http_client(Client(runtime.handle().clone()))
            .build()
            .map_err(|cause| Error::usage(format!("cannot send traces to {endpoint}")).because(cause))?;
        let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name(service.to_owned()).with_attribute(version).build();
        // The batch processor's defaults: 2,048 spans wait at most, 512 leave at a time, every 5 s.
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        let ours =
            filter_fn(|meta| meta.is_span() && *meta.level() <= Level::INFO && meta.target().starts_with("segue"));
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("segue"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(ours)
            .boxed();
        Ok((layer, Exporter { provider, runtime }))
    }

    /// Makes `span` part of the trace that `headers` name, if they name one.
    pub fn continue_from(span: &Span, headers: &HeaderMap) {
        if !span.is_none() && headers.contains_key(TRACEPARENT) {
            let _ = span.set_parent(TraceContextPropagator::new().extract(&Headers(headers)));
        }
    }

    const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

    struct Headers<'h>(&'h HeaderMap);

    impl Extractor for Headers<'_> {
        fn get(&self, name: &str) -> Option<&str> {
            self.0.get(name)?.to_str().ok()
        }

        fn keys(&self) -> Vec<&str> {
            self.0.keys().map(HeaderName::as_str).collect()
        }
    }

    /// An HTTP/1.1 client that makes a connection for each batch, on a runtime of its own: batches are
    /// seconds apart, and the thread that waits for them is not asynchronous.
    #[derive(Debug)]
    struct Client(Handle);

    impl HttpClient for Client {
        fn send_bytes<'c, 'f>(
            &'c self,
            request: Request<Bytes>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
        where
            'c: 'f,
            Self: 'f,
        {
            // Inside of the task: a timer needs its runtime.
            let sent = self.0.spawn(async { timeout(SEND_MAX, send(request)).await });
            Box::pin(async move {
                let answer = sent.await.map_err(HttpError::from).and_then(|done| done?);
                let failed = match &answer {
                    Ok(answer) if answer.status().is_success() => None,
                    Ok(answer) => Some(answer.status().to_string()),
                    Err(cause) => Some(cause.to_string()),
                };
                if let Some(cause) = failed {
                    metrics::counter!(TRACE_FAILED).increment(1);
                    tracing::warn!(cause, "the collector did not take a batch of spans");
                }
                answer
            })
        }
    }

    async fn send(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let uri = request.uri().clone();
        let authority = uri.authority().ok_or("the collector's URL has no host")?;
        let host = authority.host().trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection); // ends with the sender
        let mut request = request.map(Full::new);
        request.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str())?);
        *request.uri_mut() = Uri::from(uri.path_and_query().ok_or("the collector's URL has no path")?.clone());
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

/// Without the feature `otel` spans only give context to log lines.
#[cfg(not(feature = "otel"))]
pub fn continue_from(_: &Span, _: &HeaderMap) {}

#[cfg(not(feature = "otel"))]
pub(super) fn layer(_: &Options) -> Result<Option<(Spans, Exporter)>> {
    Ok(None)
}

#[cfg(not(feature = "otel"))]
#[derive(Debug)]
pub(super) struct Exporter;

#[cfg(not(feature = "otel"))]
impl Exporter {
    pub(super) fn flush(self, _: Duration) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sampled_flag_is_the_last_bit() {
        let sampled = |flags: &str| {
            let value = format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
            is_sampled(&HeaderValue::from_str(&value).unwrap())
        };
        assert!(sampled("01") && sampled("03") && sampled("ff"));
        assert!(!sampled("00") && !sampled("02") && !sampled("") && !sampled("zz"));
        assert!(!is_sampled(&HeaderValue::from_static("01")));
    }

    #[test]
    fn without_a_collector_nothing_is_wanted() {
        assert!(!wants(Some(&HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))));
    }
}
