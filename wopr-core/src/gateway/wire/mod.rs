//! Bodies and event streams: read, changed as little as possible, and translated between dialects.
