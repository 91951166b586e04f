// SPDX-License-Identifier: Apache-2.0

package istiod

import (
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Info is what istiod says of a host.
type Info struct {
	IPs          []string
	Registry     string
	Short, Space string
	Also         []string
}

// Kubernetes is a host of the registry Kubernetes in a namespace.
func Kubernetes(name, space string, ips ...string) Info {
	return Info{IPs: ips, Registry: "Kubernetes", Short: name, Space: space}
}

// External is a host of a ServiceEntry.
func External(ips ...string) Info { return Info{IPs: ips, Registry: "External"} }

// tableMessage is the message in the words of Istio's public description of it.
var tableMessage = func() protoreflect.MessageDescriptor {
	field := func(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type, label descriptorpb.FieldDescriptorProto_Label, of string) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, JsonName: &name, Number: &number, Type: &kind, Label: &label}
		if of != "" {
			f.TypeName = &of
		}
		return f
	}
	const one, many = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL, descriptorpb.FieldDescriptorProto_LABEL_REPEATED
	const text, message = descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	const full = ".istio.networking.nds.v1.NameTable"
	isEntry := true
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("nds.proto"), Package: proto.String("istio.networking.nds.v1"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name:  proto.String("NameTable"),
			Field: []*descriptorpb.FieldDescriptorProto{field("table", 1, message, many, full+".TableEntry")},
			NestedType: []*descriptorpb.DescriptorProto{
				{Name: proto.String("NameInfo"), Field: []*descriptorpb.FieldDescriptorProto{
					field("ips", 1, text, many, ""), field("registry", 2, text, one, ""), field("shortname", 3, text, one, ""),
					field("namespace", 4, text, one, ""), field("alt_hosts", 5, text, many, "")}},
				{Name: proto.String("TableEntry"), Options: &descriptorpb.MessageOptions{MapEntry: &isEntry}, Field: []*descriptorpb.FieldDescriptorProto{
					field("key", 1, text, one, ""), field("value", 2, message, one, full+".NameInfo")}},
			},
		}},
	}, nil)
	if err != nil {
		panic(err)
	}
	return file.Messages().ByName("NameTable")
}()

// Table is a name table as the protobuf library writes it.
func Table(t testing.TB, hosts map[string]Info) []byte {
	t.Helper()
	m := dynamicpb.NewMessage(tableMessage)
	field := tableMessage.Fields().ByName("table")
	all := m.Mutable(field).Map()
	for name, i := range hosts {
		value := all.NewValue()
		fields := field.MapValue().Message().Fields()
		set := func(name, s string) {
			if s != "" {
				value.Message().Set(fields.ByName(protoreflect.Name(name)), protoreflect.ValueOfString(s))
			}
		}
		list := func(name string, texts []string) {
			l := value.Message().Mutable(fields.ByName(protoreflect.Name(name))).List()
			for _, s := range texts {
				l.Append(protoreflect.ValueOfString(s))
			}
		}
		list("ips", i.IPs)
		list("alt_hosts", i.Also)
		set("registry", i.Registry)
		set("shortname", i.Short)
		set("namespace", i.Space)
		all.Set(protoreflect.ValueOfString(name).MapKey(), value)
	}
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Serve sets the table to these hosts.
func (i *Server) Serve(t testing.TB, hosts map[string]Info) {
	t.Helper()
	i.Set(TableType, Table(t, hosts))
}
