// Command pause holds the namespaces of a pod: it reaps the children that the pod's containers leave to it, and waits to be told to end.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

func main() {
	// One thread runs Go: nothing here is worth a second one.
	runtime.GOMAXPROCS(1)
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "pause: warning: this is not the first process of its namespace")
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGINT, syscall.SIGTERM)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		reap()
	}
}

// reap takes the exit status of every child that has ended: one signal can stand for several.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if pid <= 0 {
			return
		}
	}
}
