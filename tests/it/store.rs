//! Stores: one conformance suite for directories and buckets, and an origin on a bucket that misbehaves. The bucket
//! is Ceph's, run by the test on loopback: a server that checks signatures, as people really use it; and Garage's,
//! where that is installed.

mod conformance;
mod faults;
mod garage;
mod made;
mod migrate;
mod origin;
mod proxy;
pub(crate) mod rgw;
mod routes;
