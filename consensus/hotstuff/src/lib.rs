//! Sans-IO pipelined HotStuff core
