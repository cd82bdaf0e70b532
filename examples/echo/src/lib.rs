//! examples/echo
