//! SKELETON (command room): the command line.
