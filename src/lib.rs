//! Segue: a segment origin, a transcoding pool and a thin control API for music, in one binary.
//!
//! The modules below stand in dependency order: a module imports only from modules above it.
//! `tests/it/tidy.rs` reads the sources and checks it. See docs/ARCHITECTURE.md for the walks.

// ── ground ──
pub mod base;

// ── data plane: no SQL, no GStreamer ──
pub mod hls;

pub mod store;

pub mod cdn;

pub mod server;

pub mod origin;

// ── control plane ──
#[cfg(feature = "control")]
pub mod auth;

pub mod tracks;

#[cfg(feature = "control")]
pub mod pictures;

#[cfg(feature = "control")]
pub mod ledger;

#[cfg(feature = "control")]
pub mod jobs;

#[cfg(feature = "control")]
pub mod uploads;

#[cfg(feature = "control")]
pub mod db;

#[cfg(feature = "transcode")]
pub mod transcode;

pub mod publish;

#[cfg(feature = "control")]
pub mod catalogue;

#[cfg(feature = "transcode")]
pub mod demo;

#[cfg(feature = "control")]
pub mod intake;

#[cfg(feature = "control")]
pub mod people;

#[cfg(feature = "control")]
pub mod workers;

#[cfg(feature = "control")]
pub mod providers;

#[cfg(feature = "control")]
pub mod payments;

pub mod admin;

#[cfg(feature = "control")]
pub mod web;

#[cfg(feature = "control")]
pub mod api;

// ── assembly ──
pub mod config;

pub mod app;

pub mod cli;
