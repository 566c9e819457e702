//! Sans-IO data-availability mempool: lanes, batches, watermarks
