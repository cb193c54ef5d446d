//! Development only: tolerances, golden files, gradient check, tiny configurations, seeded data.
