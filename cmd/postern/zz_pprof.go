package main

import (
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
	"time"
)

func init() {
	name := os.Getenv("MS_PROF")
	if name == "" {
		return
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR2)
	go func() {
		<-c
		f, _ := os.Create(name)
		pprof.StartCPUProfile(f)
		<-c
		pprof.StopCPUProfile()
		f.Close()
		f, _ = os.Create(name + ".mem")
		pprof.Lookup("allocs").WriteTo(f, 0)
		f.Close()
		time.Sleep(time.Second)
	}()
}
