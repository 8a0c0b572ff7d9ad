//! Control routes.
