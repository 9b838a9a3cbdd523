module caisson/pause

go 1.26.0
