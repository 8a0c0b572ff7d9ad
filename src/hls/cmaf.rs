//! CMAF audio: writes init sections and media segments, and reads them back to check them.
