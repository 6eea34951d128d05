package maintain

// For tests: indexes are rebuilt that are smaller than others would be.
var Rebuild = (*Chores).rebuild
