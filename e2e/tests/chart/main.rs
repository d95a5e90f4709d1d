//! The operator's chart, as helm renders it: over a matrix of values, its rights, its alerts. Needs no cluster; helm and
//! promtool are built by `e2e/cluster/build` when they are not there.

mod alerts;
mod matrix;
mod render;
mod rights;
