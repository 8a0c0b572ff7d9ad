//! From encoded files to a visible version.
