//! The media data plane: decode, admit, authorize, lookup, condition, range, respond.
