//! Byte-level BPE: training, encoding in linear time, streaming decoding, file formats.
