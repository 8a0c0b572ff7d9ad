//! Stores: one conformance suite for directories and buckets, and an origin on a bucket that misbehaves. The bucket
//! is Ceph's, run by the test on loopback: a server that checks signatures, as people really use it.

mod conformance;
mod first;
mod origin;
mod proxy;
mod rgw;
