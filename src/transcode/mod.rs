//! From any audio file to a ladder: plan, supervise, child.
