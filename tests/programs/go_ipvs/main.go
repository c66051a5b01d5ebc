// A static Go program that drives IPVS through netlink libraries of the Go world, as controllers of clusters do.
//
// Usage: go_ipvs mdlayher|vishvananda add|delete|list|families [PORT] for services of tcp:192.0.2.1:PORT.
// The first library waits for answers by the runtime's poller, as cloudflare/ipvs does, the second blocks in
// recvfrom, as moby/ipvs does. "run PROGRAM ARGUMENT..." starts a child and passes on how it ended.
package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	commandAdd    = 1
	commandDelete = 3
	commandGet    = 4
)

// library asks the kernel's family "IPVS": the bodies of its answers.
type library interface {
	ask(command uint8, dump bool, body []byte) ([][]byte, error)
}

type mdlayher struct {
	connection *genetlink.Conn
	family     genetlink.Family
}

func openMdlayher() (library, error) {
	connection, err := genetlink.Dial(nil)
	if err != nil {
		return nil, err
	}
	family, err := connection.GetFamily("IPVS")
	return mdlayher{connection, family}, err
}

func (l mdlayher) ask(command uint8, dump bool, body []byte) ([][]byte, error) {
	message := genetlink.Message{Header: genetlink.Header{Command: command, Version: 1}, Data: body}
	flags := netlink.Request | netlink.Acknowledge
	if dump {
		flags = netlink.Request | netlink.Dump
	}
	answers, err := l.connection.Execute(message, l.family.ID, flags)
	var bodies [][]byte
	for _, answer := range answers {
		bodies = append(bodies, answer.Data)
	}
	return bodies, err
}

type vishvananda struct {
	family uint16
}

type payload struct{ bytes []byte }

func (p payload) Len() int          { return len(p.bytes) }
func (p payload) Serialize() []byte { return p.bytes }

func openVishvananda() (library, error) {
	request := nl.NewNetlinkRequest(unix.GENL_ID_CTRL, 0)
	request.AddData(&nl.Genlmsg{Command: nl.GENL_CTRL_CMD_GETFAMILY, Version: 1})
	request.AddData(nl.NewRtAttr(nl.GENL_CTRL_ATTR_FAMILY_NAME, nl.ZeroTerminated("IPVS")))
	answers, err := request.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return nil, err
	}
	attributes, err := nl.ParseRouteAttr(answers[0][4:])
	if err != nil {
		return nil, err
	}
	for _, attribute := range attributes {
		if attribute.Attr.Type == nl.GENL_CTRL_ATTR_FAMILY_ID {
			return vishvananda{binary.LittleEndian.Uint16(attribute.Value)}, nil
		}
	}
	return nil, errors.New("the answer names no id")
}

func (l vishvananda) ask(command uint8, dump bool, body []byte) ([][]byte, error) {
	flags := unix.NLM_F_ACK
	if dump {
		flags = unix.NLM_F_DUMP
	}
	request := nl.NewNetlinkRequest(int(l.family), flags)
	request.AddData(payload{append([]byte{command, 1, 0, 0}, body...)})
	answers, err := request.Execute(unix.NETLINK_GENERIC, 0)
	var bodies [][]byte
	for _, answer := range answers {
		bodies = append(bodies, answer[4:])
	}
	return bodies, err
}

func service(port uint16) []byte {
	encoder := netlink.NewAttributeEncoder()
	encoder.Nested(1, func(service *netlink.AttributeEncoder) error {
		service.Uint16(1, unix.AF_INET)
		service.Uint16(2, unix.IPPROTO_TCP)
		service.Bytes(3, append([]byte{192, 0, 2, 1}, make([]byte, 12)...))
		service.Bytes(4, binary.BigEndian.AppendUint16(nil, port))
		service.String(6, "wrr")
		service.Bytes(7, []byte{0, 0, 0, 0, 255, 255, 255, 255})
		service.Uint32(8, 0)
		service.Uint32(9, 0xffffffff)
		return nil
	})
	body, _ := encoder.Encode()
	return body
}

// describe prints what a service's attributes say.
func describe(body []byte) error {
	decoder, err := netlink.NewAttributeDecoder(body)
	if err != nil {
		return err
	}
	for decoder.Next() {
		decoder.Nested(func(service *netlink.AttributeDecoder) error {
			var port uint16
			var scheduler string
			for service.Next() {
				switch service.Type() {
				case 4:
					port = binary.BigEndian.Uint16(service.Bytes())
				case 6:
					scheduler = service.String()
				}
			}
			fmt.Printf("192.0.2.1:%d %s\n", port, scheduler)
			return nil
		})
	}
	return decoder.Err()
}

func families() error {
	connection, err := genetlink.Dial(nil)
	if err != nil {
		return err
	}
	family, err := connection.GetFamily("nlctrl")
	if err == nil {
		fmt.Printf("%s %#x\n", family.Name, family.ID)
	}
	return err
}

func drive(arguments []string) error {
	if arguments[1] == "families" {
		return families()
	}
	open := map[string]func() (library, error){"mdlayher": openMdlayher, "vishvananda": openVishvananda}[arguments[0]]
	library, err := open()
	if err != nil {
		return err
	}
	switch arguments[1] {
	case "list":
		bodies, err := library.ask(commandGet, true, nil)
		for _, body := range bodies {
			if err := describe(body); err != nil {
				return err
			}
		}
		return err
	case "add", "delete":
		port, err := strconv.ParseUint(arguments[2], 10, 16)
		if err != nil {
			return err
		}
		command := map[string]uint8{"add": commandAdd, "delete": commandDelete}[arguments[1]]
		_, err = library.ask(command, false, service(uint16(port)))
		return err
	}
	return fmt.Errorf("no such command: %s", arguments[1])
}

// sleep says that it runs, and which signal ended its sleep.
func sleep() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	fmt.Printf("%d\n", os.Getpid())
	select {
	case <-signals:
		os.Exit(42)
	case <-time.After(time.Minute):
		os.Exit(1)
	}
}

func main() {
	var err error
	switch {
	case os.Args[1] == "sleep":
		sleep()
	case os.Args[1] == "cat":
		var text []byte
		text, err = os.ReadFile(os.Args[2])
		os.Stdout.Write(text)
	case os.Args[1] == "run":
		child := exec.Command(os.Args[2], os.Args[3:]...)
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		err = child.Run()
		if child.ProcessState != nil {
			os.Exit(child.ProcessState.ExitCode())
		}
	default:
		err = drive(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
