//! What runs beside requests: the transcoding pool, who looks at uploads, the janitor, the sampler of the queue; and who
//! looks after them all.

pub mod callbacks;
pub(crate) mod http;
pub mod janitor;
pub mod metrics;
pub mod people;
pub mod purges;
pub mod supervisor;
#[cfg(feature = "transcode")]
pub mod transcode;
pub mod uploads;

/// A name that no other worker has, and that a person can find: host, process, four random digits.
pub fn name() -> String {
    let mut random = [0; 2];
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().into_owned();
    format!("{host}-{}-{}", std::process::id(), crate::base::hex::encode(&random))
}
