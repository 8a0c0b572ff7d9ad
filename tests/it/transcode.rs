//! The real child on real files: every input format of the product, every refusal, and what comes out
//! measured with ffmpeg as the independent decoder.

mod bench;
mod faults;
mod film;
mod first;
mod formats;
mod hostile;
mod output;
mod preview;
mod quality;
mod sandbox;
mod sources;
