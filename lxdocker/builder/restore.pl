# restore.pl ROOT remember: lists, on stdout, what the unpacked image at ROOT has in /tmp and /var/tmp.
# restore.pl ROOT: removes from ROOT what is in /tmp and /var/tmp beyond that list, and what prepare.sh made: both lists
# are on stdin. Works in a chroot, and executes nothing.
my ($root, $remember) = @ARGV;
chdir $root && chroot '.' or die "entering the image failed: $!\n";

sub entries { # FOLDER CALL: calls for each path in it
	my ($folder, $call) = @_;
	opendir my $names, $folder or return;
	while (defined(my $name = readdir $names)) { $call->("$folder/$name") unless $name eq '.' || $name eq '..' }
	closedir $names;
}

# Without recursion, since a folder may be as deep as paths can be.
sub remove {
	my @left = @_;
	while (@left) {
		my $path = $left[-1];
		lstat $path;
		if (-l _ || !-d _) { unlink $path or die "removing $path failed: $!\n" if -l _ || -e _; pop @left; next }
		rmdir $path and pop @left and next;
		my @inside;
		entries($path, sub { lstat $_[0]; if (-l _ || !-d _) { unlink $_[0] } elsif (!rmdir $_[0]) { push @inside, $_[0] } });
		@inside or rmdir $path or die "removing $path failed: $!\n";
		push @left, @inside;
	}
}

# One that is a link elsewhere is not what commands use for their own.
my @folders_for_commands = grep { lstat $_; !-l _ && -d _ } '/tmp', '/var/tmp';

if ($remember) {
	entries($_, sub { print "kept ", join(' ', (lstat $_[0])[0, 1]), "\n" }) for @folders_for_commands;
	exit 0;
}
my %kept;
while (<STDIN>) {
	chomp;
	my ($kind, $path) = split / /, $_, 2;
	if ($kind eq 'kept') { $kept{$path} = 1 }
	elsif ($kind eq 'folder') { unshift @folders, $path }
	# What a command has written there stays.
	elsif ($kind eq 'file' && lstat $path && -f _ && !-s _) { unlink $path }
}
rmdir for @folders;
for my $folder (@folders_for_commands) {
	entries($folder, sub { remove($_[0]) unless $kept{join ' ', (lstat $_[0])[0, 1]} });
}
