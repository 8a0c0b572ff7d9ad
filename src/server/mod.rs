//! Sockets, connections and the per-core runtime.
