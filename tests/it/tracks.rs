//! Tracks from outside: who may have what, from upload to play, embeds, takedowns, the pages; and their rows.

mod rows;
