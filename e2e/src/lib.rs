//! Tests and benchmarks against real processes.
