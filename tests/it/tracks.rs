//! Tracks from outside: who may have what, from upload to play, embeds, takedowns, the pages; and their rows.

mod access;
mod dmca;
mod embed;
pub(crate) mod making;
mod rows;
pub(crate) mod site;
