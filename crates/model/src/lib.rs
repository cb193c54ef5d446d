//! One configurable decoder: configuration, parameter table, initialisation, forward, backward, inference, file formats.
