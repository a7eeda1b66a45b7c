# raw.pl WORK COMMAND…: copies an image that COMMAND, a `skopeo copy` to the OCI layout WORK, refused: a Docker manifest
# with layers of a type that Docker itself does not specify, such as BuildKit's tar.zstd. It writes the manifest and
# blobs unchanged to the layer cache, and the manifest's digest to /run/digest. It asks skopeo for single blobs
# (containers-image-proxy(7)), which skopeo checks against their digests: each request and reply is a message on a
# socket, and the reply carries a pipe with the data. Uses only perl-base.
my $bb = '/bin/busybox';
my ($cache, $here) = ('/cache/blobs/sha256', '/run/build');
my ($work, @command) = @ARGV;
my $source = $command[-2];
my @options;
shift @command while $command[0] ne 'skopeo';
while (@command) {
	my $word = shift @command;
	push @options, "--$1", shift @command if $word =~ /^--src-(authfile|cert-dir)$/;
	push @options, "--$1" if $word =~ /^--src-(tls-verify=.*)/;
}
my ($ours, $theirs, $proxy);

sub output {
	open my $pipe, '-|', @_ or die "$_[0]: $!\n";
	my $said = do { local $/; <$pipe> };
	close $pipe or exit 1; # it has said why
	return $said;
}

sub write_file {
	my ($path, $content) = @_;
	my $file;
	open $file, '>', $path and print $file $content and close $file or die "$path: $!\n";
}

# The number of a system call that perl has no function for.
sub recvmsg {
	my $machine = output($bb, 'uname', '-m');
	return 297 if $machine =~ /^(arm|aarch64)/ && length pack('P', '') == 4;
	my %numbers = (x86_64 => 47, aarch64 => 212, riscv64 => 212, ppc64le => 342, s390x => 372);
	chomp $machine;
	return $numbers{$machine} || die "$machine: no way to take over a pipe is known\n";
}

sub ask {
	my ($method, @arguments) = @_;
	my $question = sprintf '{"method": "%s", "args": [%s]}', $method, join ', ', @arguments;
	defined syswrite $ours, $question or die "skopeo has gone: $!\n";
	my ($answer, $control) = ("\0" x 65536, "\0" x 64);
	my $parts = pack 'P J', $answer, length $answer;
	my $message = pack 'J L x![J] P J P J i x![J]', 0, 0, $parts, 1, $control, length $control, 0;
	my $size = syscall recvmsg(), fileno $ours, $message, 0;
	$size > 0 or die "skopeo has gone: $!\n";
	$answer = substr $answer, 0, $size;
	$answer =~ /"success":true/ or die(($answer =~ /"error":"((?:[^"\\]|\\.)*)"/ ? $1 : $answer) . "\n");
	# cmsg(3): its length, SOL_SOCKET, SCM_RIGHTS, and the descriptor.
	my ($length, $level, $type, $descriptor) = unpack 'J i i i', $control;
	return $answer, $length ? $descriptor : undef;
}

sub fetch {
	my ($image, $blob, $size) = @_;
	return if -f "$cache/$blob";
	my ($answer, $descriptor) = ask('GetBlob', $image, "\"sha256:$blob\"", $size);
	my ($pipe) = $answer =~ /"pipeid":([0-9]+)/;
	open my $content, '<&=', $descriptor or die "a pipe of skopeo's: $!\n";
	# build.sh finds downloads in progress by this name.
	my $part = "$work/oci-put-blob.$blob";
	open my $file, '>', $part or die "$part: $!\n";
	while ($size > 0) {
		my $count = sysread $content, my $piece, $size < 1 << 20 ? $size : 1 << 20;
		last unless $count;
		print $file $piece or die "$part: $!\n";
		$size -= $count;
	}
	close $file or die "$part: $!\n";
	ask('FinishPipe', $pipe);
	rename $part, "$cache/$blob" or die "$part: $!\n";
}

my $manifest = output('skopeo', 'inspect', '--raw', @options, $source);
write_file("$work/raw", $manifest);
my $digest = substr output($bb, 'sha256sum', "$work/raw"), 0, 64;
die "the manifest's digest did not match\n" if $source =~ /\@sha256:([0-9a-f]{64})$/ && $1 ne $digest;
my $named = output($bb, 'sh', '-c', 'exec perl "$1" <"$2"', 'sh', "$here/named.pl", "$work/raw");

$^F = 100; # skopeo inherits the socket
socketpair $ours, $theirs, 1, 5, 0 or die "socketpair: $!\n"; # AF_UNIX, SOCK_SEQPACKET
$proxy = fork;
defined $proxy or die "fork: $!\n";
if (!$proxy) {
	close $ours;
	exec 'skopeo', 'experimental-image-proxy', '--sockfd', fileno $theirs, @options;
	exit 127;
}
close $theirs;
ask('Initialize');
$source =~ /["\\]/ and die "$source: no name of an image\n";
my ($answer) = ask('OpenImage', "\"$source\"");
my ($image) = $answer =~ /"value":([0-9]+)/;
while ($named =~ /^(?:config|layer) ([0-9a-f]{64}) ([0-9]+)/gm) { fetch($image, $1, $2) }
close $ours;
rename "$work/raw", "$cache/$digest" or die "$cache/$digest: $!\n";
write_file("$work/oci-layout", '{"imageLayoutVersion": "1.0.0"}');
write_file('/run/digest', "sha256:$digest");
