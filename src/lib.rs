pub mod bundle;
pub mod window;
