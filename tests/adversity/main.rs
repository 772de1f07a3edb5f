//! Bad input and dead parts: the right code, a reason, every violation; and a log that tells why.
