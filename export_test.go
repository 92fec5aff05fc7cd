package phantom

// Freshness opens the reading of Cache-Control to its fuzz target, which would
// need minutes of a cache's life for each input otherwise.
var Freshness = freshness
