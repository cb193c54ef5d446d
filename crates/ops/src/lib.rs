//! The boundary between models and machines: backend traits, shapes, element types and the plain reference implementation.
