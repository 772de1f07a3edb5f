//! Death at every named point, and at random ones: what was acknowledged goes on, nothing is done twice in silence.
