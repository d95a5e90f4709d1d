//! Faults on real processes: ensembles in network namespaces of their own, with disks that can be frozen, filled and broken,
//! under load; what the clients saw of it, and whether anything was lost.

mod calls;
pub mod campaign;
pub mod damage;
pub mod disk;
pub mod lab;
pub mod network;
pub mod readers;
pub mod recorder;
pub mod row;
pub mod rows;
pub mod stage;
pub mod storm;
pub mod table;
pub mod verdict;
