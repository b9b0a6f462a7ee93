package backend

import (
	"context"
	"errors"
	"math"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	backendv1 "github.com/accelhq/accel/sdk/proto/accel/backend/v1"
)

// What the host and a backend process must agree on before the first call.
const (
	// ProtocolVersion is the version of backend.proto that this SDK speaks.
	ProtocolVersion = 1
	// PluginName is the name under which go-plugin dispenses the client.
	PluginName = "backend"

	// EnvParentPipe names the environment variable that holds the number of an
	// inherited file descriptor (on Windows: handle): the reading end of a pipe
	// whose writing end only the host holds. Its end tells that the host is gone.
	EnvParentPipe = "ACCEL_PARENT_PIPE"
	// EnvLogLevel names the environment variable that holds the level of the
	// backend's log, as hclog spells it. The default is info.
	EnvLogLevel = "ACCEL_LOG_LEVEL"
	// EnvSocketDir names the environment variable that holds the folder of mode
	// 0700, made by the host, in which the backend makes its socket.
	EnvSocketDir = plugin.EnvUnixSocketDir
)

// Bounds on what travels inside messages. Larger tensors lie in regions or
// travel in chunks.
const (
	// MaxMessage is the largest message either side accepts, in bytes.
	MaxMessage = 16 << 20
	// MaxInline is the most bytes that the tensors inlined in one message have
	// together.
	MaxInline = 8 << 20
	// ChunkBytes is the size of the chunks that a backend sends.
	ChunkBytes = 1 << 20
	// streamWindow lets a whole message pass before the reader must say that it
	// has read; larger than the default, whose estimator adds pings.
	streamWindow = 4 << 20
)

// Handshake is the cookie by which host and backend know each other. It is no
// secret: it keeps people from starting a backend by hand.
var Handshake = plugin.HandshakeConfig{
	MagicCookieKey:   "ACCEL_BACKEND",
	MagicCookieValue: "5f2ec0dd-accel-backend",
}

// HostPlugins is the VersionedPlugins of a host's plugin.ClientConfig: Dispense
// of PluginName gives a backendv1.BackendClient.
func HostPlugins() map[int]plugin.PluginSet {
	return map[int]plugin.PluginSet{ProtocolVersion: {PluginName: &wire{}}}
}

// DialOptions are the GRPCDialOptions of a host's plugin.ClientConfig.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(2 * streamWindow),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(MaxMessage),
			// The limit is the receiver's: it names the message's size.
			grpc.MaxCallSendMsgSize(math.MaxInt32)),
		// The peer is on this machine: proxies of the environment are not asked.
		grpc.WithNoProxy(),
	}
}

// wire is the go-plugin side of the protocol: server in a backend, client in a
// host.
type wire struct {
	plugin.NetRPCUnsupportedPlugin
	server backendv1.BackendServer
}

func (w *wire) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	if w.server == nil {
		return errors.New("a host's plugin set has no server")
	}
	backendv1.RegisterBackendServer(s, w.server)
	return nil
}

func (w *wire) GRPCClient(_ context.Context, _ *plugin.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return backendv1.NewBackendClient(c), nil
}
